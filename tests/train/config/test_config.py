import pytest

from train.config.kinds import AutoencoderConfig, load
from train.errors import OptionError


def test_defaults_are_the_best_detector():
    config = load(AutoencoderConfig, None, [])
    assert (config.backbone, config.size, config.channels) == ("efficientnet-lite0", (256, 256), 3)
    assert (config.width, config.depth, config.latent, config.stages, config.stride) == (64, 2, 32, (4, 6), 16)
    assert (config.shift, config.brightness, config.flips) == (0, 0.2, "none")
    assert load(AutoencoderConfig, None, ["backbone=pixels"]).brightness == 0


def test_presets_give_what_is_not_set():
    fast, accurate = (load(AutoencoderConfig, None, [f"preset={name}"]) for name in ("fast", "accurate"))
    assert (fast.size, fast.stages) == ((192, 192), (4, 6))
    assert (accurate.size, accurate.stages) == ((256, 256), (4, 5, 6))
    assert load(AutoencoderConfig, None, ["preset=fast", "size=224"]).size == (224, 224)
    assert load(AutoencoderConfig, None, ["preset=fast", "backbone=pixels"]).size == (256, 256)
    with pytest.raises(OptionError, match="preset: must be"):
        load(AutoencoderConfig, None, ["preset=best"])


def test_set_overrides_the_file_and_bare_words_need_no_quotes(tmp_path):
    file = tmp_path / "pixels.toml"
    file.write_text('backbone = "efficientnet-lite0"\nsize = 128\nepochs = 3\nchannels = 1\n')
    config = load(AutoencoderConfig, file, ["backbone=pixels", "epochs=7"])
    assert (config.backbone, config.size, config.epochs, config.width) == ("pixels", (128, 128), 7, 48)
    assert config.spec.shape == (128, 128, 1)


def test_every_problem_at_once_and_the_nearest_key():
    with pytest.raises(OptionError) as caught:
        load(AutoencoderConfig, None, ["epoch=3", "batch_size=0", "seed"])
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "epoch: there is no such key; did you mean epochs" in text
    assert "batch_size: must be a whole number from 2 to 1024, not 0" in text
    assert "--set seed: write KEY=VALUE" in text


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["size=100"], "multiples of 16"),
        (["channels=1"], "the ImageNet trunk takes 3"),
        (["size=64", "regions=8"], "regions: 8 does not divide the map of 4 x 4"),
        (["stages=[6,4]"], "must be rising, each stage once"),
        (["backbone=pixels", "size=42"], "size: .* must be multiples of 4 for backbone = pixels"),
    ],
)
def test_what_does_not_fit_together_is_refused(assignments, message):
    with pytest.raises(OptionError, match=message):
        load(AutoencoderConfig, None, assignments)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(OptionError, match="No such file"):
        load(AutoencoderConfig, tmp_path / "absent.toml", [])
    (tmp_path / "broken.toml").write_text("epochs = [")
    with pytest.raises(OptionError, match="not valid TOML"):
        load(AutoencoderConfig, tmp_path / "broken.toml", [])


def test_depth_follows_the_size():
    assert [load(AutoencoderConfig, None, [f"size={side}"]).depth for side in (64, 128, 256)] == [0, 1, 2]


def test_regions_follow_the_pictures():
    config = load(AutoencoderConfig, None, [])
    # 152 channels: 99 samples a covariance are enough, and a region of k x k positions has k² of every picture.
    assert [config.for_pictures(n).regions for n in (1, 8, 30, 98, 99, 1000)] == [1, 4, 8, 8, 16, 16]
    assert load(AutoencoderConfig, None, ["regions=4"]).for_pictures(1000).regions == 4


def test_every_key_is_described():
    assert [key for key, field in AutoencoderConfig.model_fields.items() if not field.description] == []

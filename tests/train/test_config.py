import pytest

from train.config import AutoencoderConfig, load
from train.errors import ConfigError


def test_defaults_are_the_best_detector():
    config = load(AutoencoderConfig, None, [])
    assert (config.backbone, config.size, config.channels) == ("efficientnet-lite0", (256, 256), 3)
    assert (config.width, config.depth, config.latent, config.regions) == (64, 3, 32, 16)


def test_set_overrides_the_file_and_bare_words_need_no_quotes(tmp_path):
    file = tmp_path / "pixels.toml"
    file.write_text('backbone = "efficientnet-lite0"\nsize = 128\nepochs = 3\nchannels = 1\n')
    config = load(AutoencoderConfig, file, ["backbone=pixels", "epochs=7"])
    assert (config.backbone, config.size, config.epochs, config.width) == ("pixels", (128, 128), 7, 48)
    assert config.spec.shape == (128, 128, 1)


def test_every_problem_at_once_and_the_nearest_key():
    with pytest.raises(ConfigError) as caught:
        load(AutoencoderConfig, None, ["epoch=3", "batch_size=0", "seed"])
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "epoch: there is no such key; did you mean epochs" in text
    assert "batch_size: must be a whole number from 1 to 1024, not 0" in text
    assert "--set seed: write KEY=VALUE" in text


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["size=100"], "multiples of 16"),
        (["channels=1"], "the ImageNet trunk takes 3"),
        (["size=64", "regions=16"], "regions: 16 does not divide the map of 8 x 8"),
        (["backbone=pixels", "size=42"], "size: .* must be multiples of 4 for backbone = pixels"),
    ],
)
def test_what_does_not_fit_together_is_refused(assignments, message):
    with pytest.raises(ConfigError, match=message):
        load(AutoencoderConfig, None, assignments)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(AutoencoderConfig, tmp_path / "absent.toml", [])
    (tmp_path / "broken.toml").write_text("epochs = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(AutoencoderConfig, tmp_path / "broken.toml", [])


def test_regions_and_depth_follow_the_size():
    config = load(AutoencoderConfig, None, ["size=64"])
    assert (config.regions, config.depth) == (8, 1)


def test_every_key_is_described():
    assert [key for key, field in AutoencoderConfig.model_fields.items() if not field.description] == []

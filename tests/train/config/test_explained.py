import pytest

from train.__main__ import main
from train.config.kinds import KINDS, load
from train.config.signal import SignalConfig
from train.errors import OptionError


@pytest.mark.parametrize("kind", list(KINDS))
def test_help_explains_every_hyper_parameter(kind, capsys):
    with pytest.raises(SystemExit) as done:
        main([kind, "--help"])
    assert done.value.code == 0
    shown, _, of_signals = capsys.readouterr().out.partition("hyper-parameters of signals")
    explained = [(shown, KINDS[kind])] + ([(of_signals, SignalConfig)] if kind == "ae" else [])
    for text, config in explained:
        lines = text.splitlines()
        for key, field in config.model_fields.items():
            (place,) = [n for n, line in enumerate(lines) if line.startswith(f"  {key} ")]
            assert field.description in lines[place]
            assert lines[place + 1].strip().startswith("default ")
            assert ";" in lines[place + 1]


def test_defaults_and_ranges_are_the_real_ones(capsys):
    with pytest.raises(SystemExit):
        main(["ae", "--help"])
    shown = capsys.readouterr().out
    assert "default 20; a whole number from 1 to 10000" in shown
    assert "default 64, or 48 for pixels; a whole number from 4 to 512" in shown
    assert 'default "stretch"; "stretch", "pad" or "crop"' in shown
    assert "default 0.01; a number above 0 and below 1" in shown
    assert "default [256, 256]; 2 numbers, each a whole number from 8 to 4096" in shown
    assert "default [32, 16]; a list of up to 8, each a whole number from 1 to 65536" in shown
    assert "default none; a whole number from 8 to 1000000" in shown
    assert "default 0.0; a number from 0 to 0.333\n" in shown


def test_the_first_help_says_where_the_rest_is(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "`python -m train KIND --help` explains every hyper-parameter" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("size=abc", "size: must be 2 numbers, each a whole number from 8 to 4096, not 'abc' (height and width"),
        ("nosuch=1", "nosuch: there is no such key; the keys are architecture, backbone"),
        ("epochs=1.5", "epochs: must be a whole number from 1 to 10000, not 1.5"),
        ("learning_rate=0", "learning_rate: must be a number above 0 up to 1, not 0"),
        ("backbone=resnet", 'backbone: must be "efficientnet-lite0" or "pixels", not \'resnet\''),
        ("data_licence=3", "data_licence: must be text of up to 300 characters, not 3"),
    ],
)
def test_what_is_wrong_with_a_value(assignment, message):
    with pytest.raises(OptionError) as caught:
        load(KINDS["ae"], None, [assignment])
    (told,) = caught.value.problems
    assert told.startswith(message)


def test_a_typo_in_a_file_is_told_with_the_file(tmp_path):
    file = tmp_path / "parts.toml"
    file.write_text("epohcs = 3\ntop = 0\nlatent = 0\n")
    with pytest.raises(OptionError) as caught:
        load(KINDS["ae"], file, ["latent=-1"])
    assert sorted(caught.value.problems) == [
        f"{file}: epohcs: there is no such key; did you mean epochs?",
        f"{file}: top: must be a whole number from 1 to 10000, not 0",
        "latent: must be a whole number from 1 to 4096, not -1",
    ]


def test_a_key_of_the_other_input_in_a_file_is_told_with_the_file(tmp_path):
    file = tmp_path / "beats.toml"
    file.write_text('input = "signal"\nsize = 32\nwidth = 1\n')
    with pytest.raises(OptionError) as caught:
        load(KINDS["ae"], file, [])
    assert sorted(caught.value.problems) == [
        f'{file}: size: is for input = "image", and this is input = "signal"',
        f"{file}: width: must be a whole number from 4 to 512, not 1",
    ]

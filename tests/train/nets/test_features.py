import torch

from train.nets.features import OVERLAP, Tiled, TrunkFeatures, spans


def test_tiles_see_what_the_whole_sees_but_for_what_is_far_beyond_their_edges():
    whole = TrunkFeatures((3, 4), 16).eval()
    image = torch.rand(1, 3, 320, 480, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected, found = whole(image), Tiled(whole, (320, 480), (2, 2))(image)
    assert found.shape == expected.shape == (1, 64, 20, 30)
    # Of a stage that sees no farther than the overlap, everything.
    torch.testing.assert_close(found[:, :24], expected[:, :24], rtol=1e-3, atol=1e-3)
    apart = (found - expected).abs().mean() / expected.abs().mean()
    assert apart < 0.02


def test_tiles_cover_a_side_at_multiples_of_the_stride():
    assert spans(1200, 3) == [(0, 400), (400, 800), (800, 1200)]
    assert spans(80, 2) == [(0, 32), (32, 80)]
    assert OVERLAP % 16 == 0

"""A model that computes otherwise at some sizes is never returned for them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import InputError, SessionError


class Scaled(torch.nn.Module):
    """Doubles texts of a middle length, and batches of five."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if 100 < x.shape[1] < 180 or x.shape[0] == 5 else 1)


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_what_is_not_refused_is_right(target: str, tmp_path: Path) -> None:
    model = Scaled().eval()
    samples = {"x": torch.randn(2, 6, 8)}
    fast = accelerate(model, target=target, sample_inputs=samples, budget=2, cache_dir=tmp_path)
    taken = []
    for shape in [(2, 9), (3, 90), (2, 100), (2, 101), (2, 150), (2, 250), (4, 9), (5, 9), (6, 9)]:
        x = torch.randn(*shape, 8)
        try:
            assert torch.equal(fast(x), model(x)), shape
            taken.append(shape)
        except InputError as error:
            assert "does not give what the eager model gives" in str(error)
    assert taken == [(2, 9), (3, 90), (2, 100), (4, 9)]


class Padded(torch.nn.Module):
    """Pads to a multiple of seven, and doubles texts of one shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        padded = torch.nn.functional.pad(x, (0, 0, 0, -(-length // 7) * 7 - length))
        return padded * (2 if x.shape == (3, 33, 8) else 1)


@pytest.mark.filterwarnings("ignore::optimum_core.errors.UnprovedLengthWarning")
def test_lengths_that_padding_ends_at_are_right(tmp_path: Path) -> None:
    model = Padded().eval()
    samples = {"x": torch.randn(2, 12, 8)}
    fast = accelerate(model, target="openvino", sample_inputs=samples, budget=2, cache_dir=tmp_path)
    for shape in [(2, 7), (3, 21), (2, 42), (4, 25), (3, 33), (2, 49), (2, 84)]:
        x = torch.randn(*shape, 8)
        try:
            assert torch.equal(fast(x), model(x)), shape
        except InputError as error:
            assert "does not give what the eager model gives" in str(error)
            assert shape not in ((2, 7), (3, 21)), shape


class Chosen(torch.nn.Module):
    """Doubles every tenth length, which it sees in the text of a number: no comparison of sizes shows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 if f"{x.shape[1]}".endswith("7") else 1)


@pytest.mark.filterwarnings("ignore::optimum_core.errors.UnprovedLengthWarning")
def test_lengths_that_no_comparison_shows_are_found_where_eager_is_quick(tmp_path: Path) -> None:
    model = Chosen().eval()
    fast = accelerate(
        model, target="ort", sample_inputs={"x": torch.randn(2, 12)}, budget=2, cache_dir=tmp_path, precision="fp32"
    )
    taken = []
    for length in (7, 12, 17, 27, 57):
        x = torch.randn(2, length)
        with suppress(InputError):
            assert torch.equal(fast(x), model(x)), length
            taken.append(length)
    assert taken == [12]


class Pieces(torch.nn.Module):
    """Sums within pieces of one size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([piece.cumsum(1) for piece in torch.split(x, self.size, 1)], 1)


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_a_call_of_more_pieces_than_were_exported_is_refused(target: str, tmp_path: Path) -> None:
    model = Pieces(300).eval()
    fast = accelerate(
        model, target=target, sample_inputs={"x": torch.randn(2, 6, 8)}, budget=2, cache_dir=tmp_path, precision="fp32"
    )
    x = torch.randn(2, 300, 8)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="301"):
        fast(torch.randn(2, 301, 8))


@pytest.mark.filterwarnings("ignore::optimum_core.errors.UnprovedLengthWarning")
def test_an_answer_of_another_length_is_refused(tmp_path: Path) -> None:
    """Pieces of more than any call that is tried."""
    samples = {"x": torch.randn(2, 6, 8)}
    fast = accelerate(Pieces(5000).eval(), target="ort", sample_inputs=samples, budget=2, cache_dir=tmp_path)
    for _ in range(2):
        fast(torch.randn(2, 7, 8))
        with pytest.raises(SessionError, match=r"(?s)\(2, 5000, 8\).*should have length 5100.*sample_inputs"):
            fast(torch.randn(2, 5100, 8))


class Small(torch.nn.Module):
    """Keeps small numbers: all that are drawn for a comparison."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x.abs() < 50] * 2


def test_an_answer_of_what_is_kept_by_its_value_is_taken(tmp_path: Path) -> None:
    x = torch.randn(9, generator=torch.Generator().manual_seed(0))
    fast = accelerate(Small().eval(), target="ort", sample_inputs={"x": x}, budget=2, cache_dir=tmp_path)
    x[4] = 60.0
    assert fast(x).shape == (8,)
    torch.testing.assert_close(fast(x), Small()(x))

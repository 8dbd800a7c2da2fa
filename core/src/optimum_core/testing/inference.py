"""Tests of sessions: agreement with the eager model, handling of arrays, threads and wrong calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import OptimumError, PluginError, SessionError
from optimum_core.plugins import Infer, manager
from optimum_core.testing.models import POSITIONS
from optimum_core.testing.subjects import Course, Subject, attempt, numpy_of
from optimum_core.types import Session
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray
from optimum_core.verify import relative_error

_THREADS, _CALLS = 8, 12
_MANY = 16
#: Calls in a row: a fault of one call in fifty shows.
_ROW = 60
#: Calls after which an output must still have its values: a ring of buffers comes round.
_RING = 130
#: A length beyond the positions of the text model.
_LONG = POSITIONS + 80
#: Relative tolerance between calls of the same session: sums may be taken in another order, but no more.
_SAME = 1e-5


class InferenceTests:
    """Tests of sessions, for every device and format that is offered here."""

    def test_it_agrees_with_eager_at_unseen_shapes(self, course: Course) -> None:
        """Outputs for new inputs, longer and shorter, padded on both sides, are within the precision's tolerance."""
        found = attempt(manager(), course)
        if not found.passed and not found.wrong:
            pytest.skip("; ".join(found.refused))
        assert found.passed, "\n".join((*found.wrong, *found.refused))

    def test_a_session_says_what_it_is(self, subject: Subject) -> None:
        """A session implements the protocol, and names its backend and device."""
        with subject.opened() as (session, _):
            assert isinstance(session, Session)
            assert session.backend == subject.way.backend
            assert session.device.partition(":")[0].lower() == subject.way.device.partition(":")[0].lower()

    def test_its_specs_are_the_artifacts(self, subject: Subject) -> None:
        """Inputs and outputs have the artifact's order, names, types and axes; results match them."""
        inputs = subject.model.draw(1)
        with subject.opened() as (session, run):
            assert tuple(session.inputs) == subject.artifact.inputs
            assert tuple(session.outputs) == subject.artifact.outputs
            found = numpy_of(run(inputs))
        assert set(found) == {spec.name for spec in subject.artifact.outputs}
        for spec in subject.artifact.outputs:
            assert found[spec.name].dtype.name == spec.dtype, spec
            assert found[spec.name].ndim == len(spec.shape), spec

    def test_outputs_are_fresh(self, subject: Subject) -> None:
        """A later call does not write into what an earlier one returned, and what its caller writes there changes no
        later one, on other inputs or the same."""
        inputs = subject.model.draw(1)
        with subject.opened() as (_, run):
            overwritten = numpy_of(run(inputs))
            for name, array in overwritten.items():
                assert not any(np.shares_memory(array, given) for given in inputs.values()), f"{name!r} is an input"
                if array.flags.writeable:
                    array[...] = 0
            first = numpy_of(run(inputs))
            for name, array in first.items():
                same = np.shares_memory(array, overwritten[name])
                assert not same, f"two calls on the same inputs share the memory of {name!r}"
            kept = _copied(first)
            second = numpy_of(run(subject.model.draw(2)))
            for name, array in first.items():
                assert np.array_equal(array, kept[name]), f"the second call changed the first call's {name!r}"
                assert not np.shares_memory(array, second[name]), f"two calls share the memory of {name!r}"
        for name, array in first.items():
            assert np.array_equal(array, kept[name]), f"closing the session changed {name!r}"

    def test_its_own_function_gives_what_its_hook_gives(self, subject: Subject) -> None:
        """A session's `direct`, where it has one, gives the values of `infer`, in new arrays at each call."""
        drawn = [subject.model.draw(60 + index, batch=1 + index % 2) for index in range(4)]
        with subject.opened() as (session, run):
            direct = getattr(session, "direct", None)
            if direct is None:
                pytest.skip("the session has no `direct`")
            names = [spec.name for spec in session.outputs]
            wanted = [_copied(numpy_of(run(_copied(inputs)))) for inputs in drawn]
            found = [list(direct(_copied(inputs))) for inputs in (*drawn, *drawn)]
        for outputs, want in zip(found, (*wanted, *wanted), strict=True):
            assert len(outputs) == len(names), f"`direct` gave {len(outputs)} outputs, the session has {names}"
            for name, array in zip(names, outputs, strict=True):
                same = array.dtype == want[name].dtype and np.array_equal(array, want[name], equal_nan=True)
                assert same, f"`direct` and `infer` differ in {name!r}, or a later call wrote into it"
        for first, second in combinations(found, 2):
            for name, one, other in zip(names, first, second, strict=True):
                assert not np.shares_memory(one, other), f"two calls of `direct` share the memory of {name!r}"

    def test_views_outlive_their_outputs(self, subject: Subject) -> None:
        """A row of an output keeps its values when the output is dropped and later calls are made."""
        with subject.opened() as (_, run):
            rows = {name: array[0] for name, array in numpy_of(run(subject.model.draw(1))).items()}
            kept = _copied(rows)
            drawn = [subject.model.draw(seed) for seed in range(2, 6)]
            for call in range(_RING):
                numpy_of(run(drawn[call % len(drawn)]))
                for name, row in rows.items():
                    same = np.array_equal(row, kept[name])
                    assert same, f"{name!r}[0] was kept, {name!r} dropped, and a later call wrote over the row"
        for name, row in rows.items():
            assert np.array_equal(row, kept[name]), f"closing the session changed a kept row of {name!r}"

    def test_every_call_of_many_is_right(self, subject: Subject) -> None:
        """Sixty calls in a row, of three shapes in turn, give the same outputs each time."""
        drawn = [subject.model.draw(30 + index, batch=1 + index) for index in range(3)]
        with subject.opened() as (_, run):
            want = [_copied(numpy_of(run(_copied(inputs)))) for inputs in drawn]
            for call in range(_ROW):
                shape = call % len(drawn)
                try:
                    _assert_same(numpy_of(run(_copied(drawn[shape]))), want[shape])
                except AssertionError as error:
                    raise AssertionError(f"call {call + 1 + len(drawn)} of the session: {error}") from error

    def test_inputs_are_left_alone(self, subject: Subject) -> None:
        """A call does not write into the arrays that it receives."""
        inputs = subject.model.draw(1)
        kept = _copied(inputs)
        with subject.opened() as (_, run):
            run(inputs)
        for name, array in inputs.items():
            assert np.array_equal(array, kept[name]), f"input {name!r} was changed"

    @pytest.mark.parametrize("form", ["fortran", "strided"])
    def test_memory_layout_does_not_matter(self, subject: Subject, form: str) -> None:
        """Arrays that are not contiguous give the same values as contiguous ones."""
        inputs = subject.model.draw(1)
        scattered = {name: _FORMS[form](array) for name, array in inputs.items()}
        assert not any(array.flags.c_contiguous for array in scattered.values())
        with subject.opened() as (_, run):
            _assert_same(numpy_of(run(scattered)), _copied(numpy_of(run(inputs))))

    def test_torch_tensors_are_inputs(self, subject: Subject) -> None:
        """Tensors of torch, which support DLPack, give the same values as numpy arrays."""
        if find_spec("torch") is None:
            pytest.skip("torch is not installed")
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in subject.model.draw(1).items()}
        with subject.opened() as (_, run):
            want = _copied(numpy_of(run(subject.model.draw(1))))
            _assert_same(numpy_of(run(tensors)), want)

    def test_whatever_speaks_dlpack_is_an_input(self, subject: Subject) -> None:
        """An array of an unknown library gives the same values as numpy's, through the protocol `Array` only."""
        arrays = {name: _Unheard(array) for name, array in subject.model.draw(1).items()}
        with subject.opened() as (_, run):
            want = _copied(numpy_of(run(subject.model.draw(1))))
            _assert_same(numpy_of(run(arrays)), want)

    def test_threads_do_not_disturb_each_other(self, subject: Subject) -> None:
        """Concurrent calls from several threads, each with its own inputs, give the same outputs as single calls."""
        drawn = [subject.model.draw(10 + index, batch=1 + index % 3) for index in range(_THREADS)]
        with subject.opened() as (_, run), ThreadPoolExecutor(_THREADS) as pool:
            want = [_copied(numpy_of(run(_copied(inputs)))) for inputs in drawn]

            def repeat(index: int) -> None:
                for _ in range(_CALLS):
                    _assert_same(numpy_of(run(_copied(drawn[index]))), want[index])

            for done in [pool.submit(repeat, index) for index in range(_THREADS)]:
                done.result()

    @pytest.mark.parametrize("threads", [1, _MANY])
    def test_refused_calls_harm_no_others(self, subject: Subject, threads: int) -> None:
        """Valid calls between rejected ones, in one thread and in many, give the same outputs as on their own."""
        good = [subject.model.draw(50 + index, batch=1 + index) for index in range(2)]
        bad = list(_bad(good[0]).values())
        with subject.opened() as (_, run):
            want = [_copied(numpy_of(run(_copied(inputs)))) for inputs in good]

            def alternate(index: int) -> None:
                for refused in bad if threads == 1 else bad[index : index + 1]:
                    # The last valid call is repeated: a runtime may have kept a mixture of both calls' shapes.
                    for drawn, expected in zip(good, want, strict=True):
                        _assert_same(numpy_of(run(_copied(drawn))), expected)
                    _try(run, _copied(refused))
                    for drawn, expected in zip(reversed(good), reversed(want), strict=True):
                        _assert_same(numpy_of(run(_copied(drawn))), expected)
                for drawn, expected in zip(good, want, strict=True):
                    _assert_same(numpy_of(run(_copied(drawn))), expected)

            with ThreadPoolExecutor(threads) as pool:
                for done in [pool.submit(alternate, index) for index in range(threads)]:
                    done.result()

    def test_a_closed_session_refuses_to_run(self, subject: Subject) -> None:
        """After `close`, which may be called twice, a call raises `SessionError`."""
        with subject.opened() as (session, run):
            session.close()
            with pytest.raises(SessionError):
                run(subject.model.draw(1))


class _Unheard:
    """An array of an unknown library."""

    def __init__(self, array: NDArray) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype = array.dtype

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._array.__dlpack_device__()
        return int(kind), int(index)


def _bad(good: ArrayMapping) -> dict[str, Arrays]:
    """Return invalid calls, by their fault, derived from a valid call of the text model."""
    first = next(iter(good))
    return {
        "long": {name: np.tile(array, (1, _LONG // array.shape[1] + 1)) for name, array in good.items()},
        "batch": {**good, first: np.concatenate([good[first]] * 3)},
        "sequence": {**good, first: good[first][:, :-1].copy()},
        "rank": {**good, first: good[first][0].copy()},
        "ids": {**good, "input_ids": good["input_ids"] + _LONG * _LONG},
    }


def _try(run: Infer, inputs: ArrayMapping) -> None:
    """Make a call that should be rejected, by an error of the backend's own. If it succeeds, this is no failure: core
    rejects such calls before they reach the backend."""
    try:
        run(inputs)
    except PluginError:
        raise
    except OptimumError:
        pass


def _copied(arrays: ArrayMapping) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def _strided(array: NDArray) -> NDArray:
    # The gaps hold other values, so that a backend that ignores strides reads wrong values.
    wide = np.repeat(array, 2, axis=-1)
    wide[..., 1::2] = wide[..., ::-1][..., 1::2]
    return wide[..., ::2]


_FORMS: dict[str, Callable[[NDArray], NDArray]] = {
    "fortran": np.asfortranarray,
    "strided": _strided,
}


def _assert_same(got: ArrayMapping, want: ArrayMapping) -> None:
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].shape == array.shape, name
        error = relative_error(array.astype(np.float64), got[name].astype(np.float64))
        assert error <= _SAME, f"{name!r} differs by {error:.2g}"

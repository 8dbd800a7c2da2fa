from __future__ import annotations

import pytest

from optimum_core.errors import OptionError
from optimum_core.types import TensorSpec
from optimum_trt.profiles import Profile, general, groups, lengthened, shortened


def spec(*shape: int | str, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=shape)


def test_the_general_profile_takes_every_declared_shape() -> None:
    shapes = ({"batch": 64, "sequence": 2000}, {"batch": 2})
    made = general((spec("batch", "sequence", 7),), shapes, {"batch": (2, 3, 4)}, "test")
    assert made.shapes(spec("batch", "sequence", 7)) == ((2, 1, 7), (3, 128, 7), (64, 2000, 7))


def test_a_sum_of_axes_follows_from_its_parts() -> None:
    inputs = (spec("batch", "past", 4), spec("batch", "past + sequence"), spec("batch", "past+1"))
    made = general(inputs, (), {"past": (0, 10, 20), "sequence": (1, 2, 3)}, "test")
    assert set(made.ranges) == {"batch", "past", "sequence"}
    assert [shape[1] for shape in made.shapes(inputs[1])] == [1, 12, 23]
    assert [shape[1] for shape in made.shapes(inputs[2])] == [1, 11, 21]
    (declared,) = groups(made, [{"past": 5, "sequence": 1}])
    assert declared.shapes(inputs[1])[0][1:] == (6,)


def test_an_empty_cache_is_in_the_usual_range() -> None:
    made = general((spec("batch", "past_sequence"),), (), {}, "test")
    assert made.ranges["past_sequence"][0] == 0


def test_groups_are_distinct_and_fix_only_what_they_state() -> None:
    made = general((spec("batch", "sequence"),), (), {}, "test")
    found = groups(made, [{"batch": 2}, {"batch": 2}, {"sequence": 9, "elsewhere": 3}, {"elsewhere": 3}])
    assert [item.ranges["batch"] for item in found] == [(2, 2, 2), (1, 4, 32)]
    assert [item.ranges["sequence"] for item in found] == [(1, 128, 512), (9, 9, 9)]


def test_a_range_of_no_axis_is_refused() -> None:
    with pytest.raises(OptionError, match="no varying axis 'length'") as caught:
        general((spec("batch", "past+sequence"),), (), {"length": (1, 2, 3)}, "test")
    assert caught.value.remedy == "its varying axes are batch, past, sequence"


def test_shortened_goes_down_by_the_models_constants() -> None:
    made: Profile | None = Profile(ranges={"batch": (1, 4, 32), "sequence": (1, 128, 512)})
    seen = []
    while made is not None and made.ranges["sequence"][2] > 60:
        made = shortened(made, (77, 768), ())
        assert made is not None and made.ranges["batch"] == (1, 4, 32)
        seen.append(made.ranges["sequence"])
    assert seen == [(1, 128, 256), (1, 128, 128), (1, 77, 77), (1, 64, 64), (1, 32, 32)]


def test_shortened_stops_at_what_was_declared() -> None:
    made = Profile(ranges={"sequence": (1, 60, 64)})
    assert shortened(made, (), [{"sequence": 64}]) is None
    assert shortened(Profile(ranges={"batch": (1, 4, 32)}), (), ()) is None


def test_lengthened_goes_up_to_the_likeliest() -> None:
    made = Profile(ranges={"batch": (1, 4, 32), "past": (0, 6, 9), "frames": (16, 100, 3000)})
    seen = []
    while (longer := lengthened(made, [{"frames": 70}])) is not None:
        made = longer
        seen.append((made.ranges["past"][0], made.ranges["frames"][0]))
        assert made.ranges["batch"] == (1, 4, 32)
    assert seen == [(1, 32), (2, 64), (4, 70), (6, 70)]

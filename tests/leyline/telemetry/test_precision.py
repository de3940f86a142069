from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from esper.leyline.telemetry.precision import as_double

NESTED = [
    (pa.list_(pa.float32()), [0.1, None], pa.list_(pa.float64())),
    (pa.struct([("a", pa.float32()), ("n", pa.int64())]), {"a": 0.1, "n": 3}, pa.struct([("a", pa.float64()), ("n", pa.int64())])),
    (pa.map_(pa.string(), pa.float32()), [("a", 0.1), ("b", None)], pa.map_(pa.string(), pa.float64())),
    (
        pa.map_(pa.string(), pa.struct([("a", pa.list_(pa.float32()))])),
        [("k", {"a": [0.7]})],
        pa.map_(pa.string(), pa.struct([("a", pa.list_(pa.float64()))])),
    ),
]


def test_decimals_come_back_as_they_were_told() -> None:
    told = [0.1, 0.3, -87.6, 1e-30, 3.4e38, 123456.7, 16777216.0, 0.0, None, math.inf, -math.inf]
    read = as_double(pa.table({"a": pa.array(told, pa.float32())}))
    assert read.schema.field("a").type == pa.float64()
    assert read.column("a").to_pylist() == told


def test_no_bit_of_single_precision_is_lost() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    read = as_double(pa.table({"a": pa.array(numbers)})).column("a").to_numpy()
    np.testing.assert_array_equal(read.astype(np.float32), numbers)


@pytest.mark.parametrize(("kind", "value", "wide"), NESTED)
def test_numbers_within_others_are_widened_too(kind: pa.DataType, value: object, wide: pa.DataType) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([value, None], kind)], schema=pa.schema([("a", kind)], metadata={"k": "v"}))
    read = as_double(batch)
    assert read.schema.field("a").type == wide
    assert read.to_pylist() == [{"a": value}, {"a": None}]
    assert read.schema.metadata == {b"k": b"v"}


def test_double_precision_is_left_as_it_is() -> None:
    table = pa.table({"a": [0.1 + 0.2], "b": ["x"]})
    assert as_double(table) is table

"""The bytes of records and blocks: layout, round trip, and every damage noticed."""

import numpy as np
import pytest

from dist_fm.data.records import BLOCK_HEADER_BYTES, RecordError, RecordLayout, decode_block, encode_block
from dist_fm.data.schema import EMPTY, Field, Label, Schema


def example(layout, rows=50, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "labels": rng.integers(0, 2, rows).astype("f4"),
        "ids": rng.integers(EMPTY, 2**31 - 1, (rows, layout.slots)).astype("i4"),
        "values": rng.normal(size=(rows, layout.slots)).astype("f4") if layout.has_values else None,
        "weights": rng.random(rows).astype("f4") if layout.has_weights else None,
        "groups": rng.integers(0, 2**31 - 1, rows).astype("i4") if layout.has_groups else None,
    }


@pytest.mark.parametrize("has_values", [False, True])
@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("has_groups", [False, True])
def test_pack_and_read_back(has_values, has_weights, has_groups):
    layout = RecordLayout(3, has_values, has_weights, has_groups)
    given = example(layout)
    rows = layout.pack(**given)
    assert rows.dtype == np.int32 and rows.shape == (50, layout.words)
    for name, expected in given.items():
        found = getattr(layout, name)(rows)
        if expected is None:
            assert found is None
        else:
            assert found.dtype == expected.dtype and np.shares_memory(found, rows)
            np.testing.assert_array_equal(found, expected)


def test_the_words_of_a_row_are_in_the_documented_order():
    layout = RecordLayout(2, has_values=True, has_weights=True, has_groups=True)
    rows = layout.pack(np.float32([1]), np.int32([[7, EMPTY]]), np.float32([[0.5, 0]]), np.float32([2]), np.int32([9]))
    expected = (
        np.array([1, 2], "<f4").tobytes() + np.array([9, 7, -1], "<i4").tobytes() + np.array([0.5, 0], "<f4").tobytes()
    )
    assert rows.tobytes() == expected


def test_layout_of_a_schema_counts_slots():
    fields = (Field("a", "categorical", 5, 0), Field("genres", "categorical", 9, 5, slots=4))
    schema = Schema("x", fields, Label("y", "binary"), has_values=True)
    assert RecordLayout.for_schema(schema) == RecordLayout(5, has_values=True)
    assert RecordLayout.for_schema(schema).words == 11


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ids": np.zeros((50, 2), "i4")}, "ids have shape"),
        ({"labels": np.zeros(49, "f4")}, "shape"),
        ({"values": np.zeros((50, 3), "f4")}, "values were given"),
    ],
)
def test_pack_refuses_wrong_shapes(change, message):
    layout = RecordLayout(3)
    with pytest.raises(RecordError, match=message):
        layout.pack(**{**example(layout), **change})


@pytest.mark.parametrize("rows", [0, 1, 777])
def test_block_round_trip_is_a_read_only_view(rows):
    layout = RecordLayout(4)
    packed = layout.pack(**example(layout, rows))
    block = encode_block(packed)
    decoded = decode_block(block, where="here")
    np.testing.assert_array_equal(decoded, packed)
    assert not decoded.flags.writeable
    if rows:
        assert np.shares_memory(decoded, np.frombuffer(block, "u1"))


def test_every_single_flipped_bit_is_noticed():
    layout = RecordLayout(2)
    block = encode_block(layout.pack(**example(layout, 5)))
    for position in range(len(block)):
        for bit in range(8):
            damaged = bytearray(block)
            damaged[position] ^= 1 << bit
            with pytest.raises(RecordError, match="^some file: block 3"):
                decode_block(damaged, where="some file: block 3")


def test_cut_and_foreign_blocks_are_refused():
    block = encode_block(np.zeros((5, 3), "i4"))
    for length in (0, 10, BLOCK_HEADER_BYTES, len(block) - 1):
        with pytest.raises(RecordError, match="here"):
            decode_block(block[:length], where="here", check=False)
    with pytest.raises(RecordError, match="not a block of records"):
        decode_block(b"PK" + block[2:], where="here", check=False)

"""A packed encoder, written here by the format's description, comes back number for number."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from secateur.config.errors import InputError
from secateur.data.packed import FLOAT, FOUR_BITS, read_packed
from secateur.encoders.unpacking import build_tokenizer, build_transformer, list_names

TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁кот", "▁ко", "т", "й", "▁cat", "a", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -9.0, -2.0, -3.0, -4.0, -5.0, -2.5, -6.0, 0.0]
HIDDEN, LAYERS, HEADS, NEURONS, ROWS, POSITIONS, TYPES = 32, 2, 4, 64, 14, 10, 2
BOS, EOS, PAD, UNK = 0, 2, 1, 3


def pack_matrix(weights: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return blocks of a matrix and the weights that they stand for, one by one as the format's description says."""
    blocks, exact = b"", []
    for row in weights.reshape(-1, 32):
        scale = np.float16(np.abs(row).max() / 7)
        codes = [int(np.clip(round(float(w) / float(scale)) + 8, 0, 15)) for w in row]
        blocks += struct.pack("<e", scale) + bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
        exact += [(code - 8) * float(scale) for code in codes]
    return blocks, np.array(exact, np.float32)


def write_packed(path: Path, *, version: int = 1, block: int = 32, map_entries: list[tuple[int, str]] | None = None):
    """Write a random packed encoder; return its weights by transformers' names."""
    settings = BertConfig(
        vocab_size=ROWS, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=NEURONS, max_position_embeddings=POSITIONS, type_vocab_size=TYPES,
    )  # fmt: skip
    model = BertModel(settings, add_pooling_layer=False)
    texts = [token.encode() for token in TOKENS]
    starts = np.cumsum([0, *map(len, texts)])
    entries = [(0xFB01, "fi"), (0x200B, " ")] if map_entries is None else map_entries
    normalization = b"".join(struct.pack(f"<IB{len(s)}I", c, len(s), *map(ord, s)) for c, s in entries)
    head = b"E5S1" + struct.pack(
        "<I7ifi", version, HIDDEN, LAYERS, HEADS, NEURONS, ROWS, POSITIONS, TYPES, 1e-12, block
    )
    head += struct.pack("<5iQ", len(TOKENS), BOS, EOS, PAD, UNK, starts[-1])
    head += starts.astype("<u4").tobytes() + np.array(SCORES, "<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", len(entries), len(normalization)) + normalization
    from secateur.data.packed import PackedShape

    names = list_names(PackedShape(HIDDEN, LAYERS, HEADS, NEURONS, ROWS, POSITIONS, TYPES, 1e-12))
    directory_size = 4 + sum(2 + len(name) + 1 + 4 + 8 + 8 for name in names)
    directory, data, weights = struct.pack("<i", len(names)), b"", {}
    for name, full in names.items():
        values = model.state_dict()[full].numpy() + 0.01
        if values.ndim == 2 and name not in ("emb.pos", "emb.type"):
            content, exact = pack_matrix(values)
            form, weights[full] = FOUR_BITS, exact.reshape(values.shape)
        else:
            content, form, weights[full] = values.astype("<f4").tobytes(), FLOAT, values
        offset = len(head) + directory_size + len(data)
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", form, values.size, offset, len(content))
        data += content
    path.write_bytes(head + directory + data)
    return settings, weights


def test_a_packed_file_gives_the_vectors_of_its_weights(tmp_path: Path) -> None:
    settings, weights = write_packed(tmp_path / "packed.bin")
    packed = read_packed(tmp_path / "packed.bin")
    found = build_transformer(packed)
    expected = BertModel(settings, add_pooling_layer=False).eval()
    expected.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()}, strict=False)
    ids = torch.tensor([[0, 5, 7, 2]])
    with torch.inference_mode():
        assert torch.equal(found(ids).last_hidden_state, expected(ids).last_hidden_state)


def test_a_block_solved_by_hand(tmp_path: Path) -> None:
    from secateur.data.packed import unpack_nibbles

    block = struct.pack("<e", 0.5) + bytes([0x80, 0x9F] + [0x88] * 14)  # low nibbles 0, 15, 8...; high ones 8, 9, 8...
    weights = unpack_nibbles(memoryview(block))
    assert weights.tolist() == [-4.0, 3.5] + [0.0] * 14 + [0.0, 0.5] + [0.0] * 14


def test_the_tokenizer_reads_as_sentencepiece_does(tmp_path: Path) -> None:
    write_packed(tmp_path / "packed.bin")
    tokenizer = build_tokenizer(read_packed(tmp_path / "packed.bin").tokenizer, max_length=10)
    assert tokenizer.convert_ids_to_tokens(tokenizer("кот  cat")["input_ids"]) == ["<s>", "▁кот", "▁cat", "</s>"]
    joined, apart = tokenizer("котй")["input_ids"], tokenizer("коти\u0306")["input_ids"]  # и and a breve
    assert joined == apart
    assert tokenizer("кот")["input_ids"][0] == tokenizer.bos_token_id == BOS
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token) == (PAD, UNK, "<mask>")
    assert tokenizer("a" * 50, truncation=True)["input_ids"][-1] == EOS


def test_another_normalization_is_refused(tmp_path: Path) -> None:
    write_packed(tmp_path / "packed.bin", map_entries=[(ord("a") + n, "кот") for n in range(20)])
    with pytest.raises(InputError, match="not normalised as by nmt_nfkc: 20 signs of 20"):
        build_tokenizer(read_packed(tmp_path / "packed.bin").tokenizer, max_length=10)


def test_a_file_cut_short_anywhere_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "packed.bin"
    write_packed(path)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            build_transformer(read_packed(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bytes_turned_over_never_end_in_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "packed.bin"
    write_packed(path)
    whole = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for place in generator.integers(0, 2_000, 300):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        with suppress(InputError):
            packed = read_packed(path)
            build_transformer(packed)
            build_tokenizer(packed.tokenizer, max_length=10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2, where 1 can be read"),
        ({"block": 64}, "blocks of 64"),
    ],
)
def test_another_version_or_shape_is_named(tmp_path: Path, change: dict[str, int], said: str) -> None:
    write_packed(tmp_path / "packed.bin", **change)
    with pytest.raises(InputError, match=said):
        read_packed(tmp_path / "packed.bin")


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match="does not begin with E5S1"):
        read_packed(tmp_path / "other.bin")
    with pytest.raises(InputError, match="cannot be read"):
        read_packed(tmp_path / "nothing.bin")

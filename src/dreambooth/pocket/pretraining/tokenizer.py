"""The pocket model's tokenizer; imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from dreambooth.pocket.world.captions import RARE_IDENTIFIERS

CONTEXT_LENGTH = 32  # tokens; the longest caption of the world takes 29


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Build a CLIP tokenizer in which every given word and rare identifier is one token.

    Any other word falls back to pieces and bytes, so that every prompt tokenizes. The same words
    give the same ids in every process, whatever their order.
    """
    merges = _merges(set(words) | set(RARE_IDENTIFIERS))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    tokens += ["".join(pair) for pair in merges]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # pyright: ignore[reportArgumentType]  pairs are taken too
        model_max_length=CONTEXT_LENGTH,
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> np.ndarray:
    """Tokenize captions into padded ids `[N,32]` int32."""
    ids = tokenizer(
        captions, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True
    ).input_ids
    return np.asarray(ids, dtype=np.int32)


def _merges(words: set[str]) -> list[tuple[str, str]]:
    """Find byte-pair merges that make every word whole: most frequent pair first, then by name.

    The tokenizers library's own trainer breaks ties by the order of a hash table, so that its ids
    differ from process to process.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(words)]
    merges = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_join(parts, best) for parts in split]
    return merges


def _join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge every occurrence of a neighbouring `pair`, from the left."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined

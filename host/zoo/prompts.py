# SPDX-License-Identifier: Apache-2.0
"""Turns the words of captioned pictures into tokens: a byte-pair vocabulary of their own, in CLIP's form.

Does: learn the vocabulary from the captions, give it as the `CLIPTokenizer` that diffusers' pipelines call, and
encode every caption in several shortened variants, so that a prompt need not be a picture's full name.
Does not: encode meaning (the text encoder does, trained with the denoiser).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import torch

from .shipped import EMOJI_TOKENS

VOCABULARY = 1600
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS_KEPT = 0.75
"""Chance of each word of a shortened caption to stay."""

ARTICLES = 0.2
"""Chance of a shortened caption to begin with "a"."""


def learn_vocabulary(captions: Sequence[Sequence[str]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of the captions' words, split and marked as CLIP's are."""
    from tokenizers import trainers
    from transformers import CLIPTokenizer

    untrained = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, END],
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(c) for c in range(ord("!"), ord("~") + 1)],
        show_progress=False,
    )
    untrained.train_from_iterator((name for names in captions for name in names), trainer)
    model = json.loads(untrained.to_str())["model"]
    return dict(model["vocab"]), [tuple(pair) for pair in model["merges"]]


def tokenizer(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> Any:
    """The vocabulary as a tokenizer of prompts of `EMOJI_TOKENS` tokens."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(
        vocab=dict(vocabulary),
        merges=[(first, second) for first, second in merges],  # type: ignore[misc]  # pairs, whatever it says
        model_max_length=EMOJI_TOKENS,
    )


def encode(words: Any, texts: Sequence[str]) -> torch.Tensor:
    """N x `EMOJI_TOKENS` ids, padded and cut as the pipeline does."""
    ids: torch.Tensor = words(
        list(texts), padding="max_length", max_length=EMOJI_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def variants(captions: Sequence[Sequence[str]], count: int, seed: int) -> list[list[str]]:
    """`count` captions per picture: each name in turn, whole, and then with words left out at random."""
    dice = random.Random(seed)
    found = []
    for names in captions:
        texts = list(names)[:count]
        while len(texts) < count:
            words = (names[0] if dice.random() < 0.6 else dice.choice(names)).split()
            kept = [word for word in words if dice.random() < WORDS_KEPT] or words
            texts.append(" ".join(["a", *kept] if dice.random() < ARTICLES else kept))
        found.append(texts)
    return found

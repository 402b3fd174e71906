"""Writes what SentencePiece makes of some texts, for the tests of its tokenizers.

Run ``python -m tests.interop.gguf.make_sentencepiece``; it needs the package ``sentencepiece``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden" / "sentencepiece.json"
TOOL = "<tool>"  # a token that its user defined
TEXTS = (
    "The cat sat on the mat in 1984, didn't it? The other cats sat on other mats then.",
    "A night train runs from the north to the south of the country, and another one returns.",
    "Größe, naïve é, and others were written there; nothing of it was ever translated.",
)
ASKED = (
    *TEXTS,
    "",
    " ",
    "  two  spaces,\ttabs\n\nand lines",
    "a<tool> b<tool><tool>the other",
    "東京 😀 ½ 1234567",
    "otherothertheother sat▁on",
)


def main() -> None:
    """Trains two tiny tokenizers, with and without a space before each text."""
    import sentencepiece  # pyright: ignore[reportMissingImports]

    told = {}
    for prefix in (True, False):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 4),
            model_writer=model,
            vocab_size=360,
            model_type="bpe",
            byte_fallback=True,
            add_dummy_prefix=prefix,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            user_defined_symbols=[TOOL],
            num_threads=1,
            minloglevel=2,
        )
        found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        ids = range(found.get_piece_size())
        tokens = [found.id_to_piece(i) for i in ids]
        # The types of GGUF: unknown, control, user-defined, byte, normal.
        types = [
            2 * found.is_unknown(i) or 3 * found.is_control(i) or 6 * found.is_byte(i) or 1
            for i in ids
        ]
        types[tokens.index(TOOL)] = 4
        told["prefix" if prefix else "none"] = {
            "tokens": tokens,
            "token_type": types,
            "scores": [found.get_score(i) for i in ids],
            "ids": [found.encode(text) for text in ASKED],
            "texts": [found.decode(found.encode(text)) for text in ASKED],
        }
    text = json.dumps({"asked": ASKED, **told}, ensure_ascii=False, separators=(",", ":"))
    GOLDEN.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How texts are cut before merging."""

from __future__ import annotations

import pytest

from smf_jax.interop.gguf.cuts import CUTS

TEXT = "Pay $3.50+tax in 2024's 12345, IT'S ok\n\n  go!"
PIECES = {
    "gpt-2": "Pay| $|3|.|50|+|tax| in| 2024|'s| 12345|,| IT|'|S| ok|\n\n | go|!",
    "smollm": "Pay| $|3|.|5|0|+|tax| in| |2|0|2|4|'s| |1|2|3|4|5|,| IT|'|S| ok|\n\n | go|!",
    "qwen2": "Pay| $|3|.|5|0|+tax| in| |2|0|2|4|'s| |1|2|3|4|5|,| IT|'S| ok|\n\n| | go|!",
    "llama-bpe": "Pay| $|3|.|50|+tax| in| |202|4|'s| |123|45|,| IT|'S| ok|\n\n| | go|!",
    # Marks first, so that no contraction is left; then words; then numbers by three.
    "default": "Pay| |$|3|.|50|+|tax| in| |202|4|'|s| |123|45|,| IT|'|S| ok|\n\n | go|!",
}


@pytest.mark.parametrize("name", CUTS)
def test_pieces_of_a_text(name):
    pieces = CUTS[name].pre_tokenizer().pre_tokenize_str(TEXT)
    told = [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in pieces]
    assert told == PIECES[name].split("|")

"""Axis letters and array types that every signature of the library uses.

======  =====================================================================
letter  meaning
======  =====================================================================
``b``   batch
``t``   tokens (all tokens of a batch, flattened, where no ``b`` stands before)
``d``   model width
``h``   memory heads
``k``   reads per head
``r``   reads per token, ``h·k`` flattened
``n``   keys per half; the table has ``N = n²`` slots
``c``   width of one query half, ``kd / 2``
``w``   last tokens that a hashed router looks at, a place's own the first
``v``   value width
``s``   selected rows (a static size; unused places hold the id ``N``)
``N``   table slots
======  =====================================================================
"""

from __future__ import annotations

from jaxtyping import Array, Bool, Float, Int

Table = Float[Array, "N v"]
Rows = Float[Array, "s v"]
SlotIds = Int[Array, " s"]
SlotCounts = Int[Array, " N"]
SlotScores = Float[Array, " N"]
TokenMask = Bool[Array, " t"]

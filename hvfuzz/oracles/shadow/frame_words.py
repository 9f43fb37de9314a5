"""The frame words as they were last read, and how many frames are in each state."""

from __future__ import annotations

from typing import Final

from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_MASK, PAGE_SIZE, WORDS_PER_PAGE
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import Change
from hvfuzz.oracles.shadow.rewindable import ShadowWords

STATES: Final = 256


class FrameWords(ShadowWords):
    """Hfn -> frame word, in `values`."""

    __slots__ = ("_base_counts", "_scene", "state_counts")

    def __init__(self, scene: Scene) -> None:
        super().__init__([])
        self._scene: Final = scene
        self.state_counts: Final = [0] * STATES
        """State -> number of frames in it."""
        self._base_counts: list[int] = []

    def read(self) -> None:
        """Read all frame words from memory, which reports writes to them from now on. They are the base."""
        memory = self._scene.machine.memory
        first, last = self._scene.frame_words, self._scene.frame_words + memory.frames
        for hfn in range(first >> 9, (last - 1 >> 9) + 1):
            memory.watched[hfn] = 1
        self.values = self._scene.words[first:last].tolist()
        states = memory.data[first * 8 + 1 : last * 8 : 8].tobytes()
        self.state_counts[:] = [0] * STATES
        for state in sorted(set(states)):
            self.state_counts[state] = states.count(state)
        self.rebase()

    def rebase(self) -> None:
        """Make the present words the base."""
        super().rebase()
        self._base_counts = list(self.state_counts)

    def reset(self) -> None:
        """Return to the base."""
        super().reset()
        self.state_counts[:] = self._base_counts

    def follow_blocks(self, written: list[int], change: Change) -> None:
        """Take from `written` the pages of the frame table that were written as a whole, and compare each in one go.

        A page of the frame table holds the words of 512 frames: those of one large leaf, if the table is aligned.
        """
        words = self._scene.words
        first = self._scene.frame_words
        values = self.values
        rest: list[int] = []
        at = 0
        while at < len(written):
            hpa = written[at]
            start = (hpa >> 3) - first
            if (
                hpa & PAGE_MASK
                or not 0 <= start <= len(values) - LARGE_FRAMES
                or start & LARGE_FRAMES - 1
                or written[at : at + WORDS_PER_PAGE] != list(range(hpa, hpa + PAGE_SIZE, 8))
            ):
                rest.append(hpa)
                at += 1
                continue
            at += WORDS_PER_PAGE
            block = slice(start, start + LARGE_FRAMES)
            old, new = values[block], words[hpa >> 3 : (hpa >> 3) + WORDS_PER_PAGE].tolist()
            if old == new:
                continue
            if old.count(old[0]) != LARGE_FRAMES or new.count(new[0]) != LARGE_FRAMES:
                rest.extend(range(hpa, hpa + PAGE_SIZE, 8))
                continue
            if not change.blocks:
                change.scattered = {}
            change.blocks[start >> 9] = (old[0], new[0])
            change.frames.update(dict.fromkeys(range(block.start, block.stop), old[0]))
            values[block] = new
            self.changed.append(block)
            self.state_counts[old[0] >> 8 & 0xFF] -= LARGE_FRAMES
            self.state_counts[new[0] >> 8 & 0xFF] += LARGE_FRAMES
        written[:] = rest

"""The templates and their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.templates.device_address_lifecycle import device_address_lifecycle
from hvfuzz.guest.generate.templates.device_model_drivers import device_model_driver
from hvfuzz.guest.generate.templates.dma_engine_driver import dma_engine_driver
from hvfuzz.guest.generate.templates.frame_lifecycle import frame_lifecycle
from hvfuzz.guest.generate.templates.repetition import repeat_op, toggle_mode
from hvfuzz.guest.generate.templates.resource_lifecycle import resource_lifecycle
from hvfuzz.guest.generate.templates.table_exhaustion import exhaust_table
from hvfuzz.guest.generate.templates.user_mode import user_mode
from hvfuzz.guest.generate.templates.virtio_driver import virtio_driver

TEMPLATES: Final[Sequence[Callable[[Context], None]]] = (
    *(frame_lifecycle, frame_lifecycle, frame_lifecycle, frame_lifecycle, frame_lifecycle, frame_lifecycle),
    *(device_address_lifecycle, device_address_lifecycle, device_address_lifecycle),
    *(resource_lifecycle, resource_lifecycle),
    exhaust_table,
    dma_engine_driver,
    repeat_op,
    toggle_mode,
    user_mode,
    virtio_driver,
    device_model_driver,
)

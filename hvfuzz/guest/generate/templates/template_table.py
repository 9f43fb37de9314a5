"""The table of program templates: an entry here adds a template to generation and insertion.

A template appends ops to the program under construction. It appends nothing where the world or the weights of the op
kinds leave it no material.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.templates.borders.device_borders import device_borders
from hvfuzz.guest.generate.templates.borders.interrupt_borders import interrupt_borders
from hvfuzz.guest.generate.templates.borders.memory_borders import memory_borders
from hvfuzz.guest.generate.templates.borders.waiting_borders import waiting_borders
from hvfuzz.guest.generate.templates.device_address_lifecycle import device_address_lifecycle
from hvfuzz.guest.generate.templates.device_model_drivers import device_model_driver
from hvfuzz.guest.generate.templates.dma_engine_driver import dma_engine_driver
from hvfuzz.guest.generate.templates.frame_lifecycle import frame_lifecycle, long_call
from hvfuzz.guest.generate.templates.io_permissions import io_permissions
from hvfuzz.guest.generate.templates.repetition import repeat_op, toggle_mode
from hvfuzz.guest.generate.templates.resource_lifecycle import resource_lifecycle
from hvfuzz.guest.generate.templates.table_exhaustion import exhaust_table
from hvfuzz.guest.generate.templates.user_mode import user_mode
from hvfuzz.guest.generate.templates.virtio_driver import virtio_driver

Template: TypeAlias = Callable[[Context], None]

TEMPLATES: Final[tuple[tuple[Template, int], ...]] = (
    (frame_lifecycle, 6),
    (device_address_lifecycle, 3),
    (resource_lifecycle, 2),
    (exhaust_table, 1),
    (dma_engine_driver, 1),
    (repeat_op, 1),
    (toggle_mode, 1),
    (user_mode, 1),
    (virtio_driver, 1),
    (device_model_driver, 1),
    (io_permissions, 1),
    (interrupt_borders, 1),
    (waiting_borders, 1),
    (device_borders, 1),
    (memory_borders, 1),
    (long_call, 1),
)
"""(Template, weight)."""

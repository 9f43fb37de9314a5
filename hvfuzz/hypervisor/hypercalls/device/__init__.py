"""Devices: assignment to domains, memory that devices can access, and validated DMA."""

from hvfuzz.hypervisor.hypercalls.device.assignment import Assign, Deassign
from hvfuzz.hypervisor.hypercalls.device.dma_map import DmaMap, DmaUnmap
from hvfuzz.hypervisor.hypercalls.device.dma_submit import DmaBatch, DmaSubmit

__all__ = ["Assign", "Deassign", "DmaBatch", "DmaMap", "DmaSubmit", "DmaUnmap"]

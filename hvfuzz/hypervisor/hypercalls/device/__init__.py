"""Devices: which domain has which, what of the domain's memory its devices reach, and validated DMA."""

from hvfuzz.hypervisor.hypercalls.device.assignment import Assign, Deassign
from hvfuzz.hypervisor.hypercalls.device.dma_map import DmaMap, DmaUnmap
from hvfuzz.hypervisor.hypercalls.device.dma_submit import DmaBatch, DmaSubmit

__all__ = ["Assign", "Deassign", "DmaBatch", "DmaMap", "DmaSubmit", "DmaUnmap"]

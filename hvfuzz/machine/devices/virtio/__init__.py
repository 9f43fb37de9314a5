"""virtio devices: what all have, their queues, a disk and a network card."""

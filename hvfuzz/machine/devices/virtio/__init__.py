"""virtio devices: transport and queues, a disk, and a network card."""

"""The oracle `exits`: effects of VM exits, checked against a second model of each emulated device."""

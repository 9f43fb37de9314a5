"""The state of host context, how it boots, and the way of a VM exit through it: dispatch, check, effect."""

"""The outcome of a case by the SDM, and with Bochs's quirks on request; shares no code with our machine."""

"""Program templates: each function appends a run of ops that a real guest or an attacker would issue in sequence."""

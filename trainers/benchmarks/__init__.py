"""How fast and how large everything is on this machine: what ``jedi-env bench`` measures."""

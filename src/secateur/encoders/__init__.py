"""An encoder as an object: load it, run it, rebuild it, count what it costs."""

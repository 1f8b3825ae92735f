"""Rules of billing: values in, values out; no store, no clock."""

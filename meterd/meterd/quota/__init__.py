"""Rules of quotas: values in, values out; no store, no clock."""

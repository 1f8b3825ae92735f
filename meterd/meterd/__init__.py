"""meterd: prices, limits and rolls up AI usage per client on the machine the app runs on."""

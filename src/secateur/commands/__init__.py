"""The commands, a module each: options in, one call of the code behind them."""

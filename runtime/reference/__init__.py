"""Pages and tables that describe the settings: generated docs, and `smrl presets`."""

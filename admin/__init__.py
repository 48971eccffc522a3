"""Operating it: command line, configuration file, supervisor, engines, provisioning."""

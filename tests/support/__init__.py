"""What tests of several rooms use: servers, stores, seeds, traces left behind."""

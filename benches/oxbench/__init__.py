"""The parts of benches/run: machines, the table."""

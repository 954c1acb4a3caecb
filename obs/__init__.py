"""What operators see of a process: logs, metrics, health. Knows no domain types and imports no other room."""

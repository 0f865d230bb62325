"""FedM2CT: federated low-dose CT reconstruction across sites with different scanners."""

__version__ = "0.1.0"

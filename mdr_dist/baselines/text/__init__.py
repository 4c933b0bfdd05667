"""What CATN is compared with: methods that predict ratings."""

"""Environments: the dream and the real game behind Gymnasium's faces, with identical spaces."""

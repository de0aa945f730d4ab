"""The video codec of the released Ovi: the Wan2.2 autoencoder of TI2V-5B."""

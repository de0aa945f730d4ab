"""The audio codec of the released Ovi: MMAudio's 16 kHz autoencoder and its BigVGAN vocoder."""

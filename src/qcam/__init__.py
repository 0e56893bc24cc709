"""Does a quantized vision model, as deployed, still look at the same place?"""

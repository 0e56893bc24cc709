"""Gates on what quantization did: `asked` reads them, `judging` holds a study against them, `telling` puts it into files."""

"""The commands' stories: configuration in, result out. Nothing here prints."""

"""What both modules need from Slicer: volumes and segmentations ↔ files, the background job, dependencies, tables and plots.

Nothing heavy is imported with this package: torch, SimpleITK and the like come at the moment of use, or in the background process only.
"""

"""The peak of resident memory, for programs that tests run in processes of their own."""

PEAK_BYTES = '''
def peak_bytes():
    """Of this program. What getrusage says begins with the peak of the process that started it."""
    import resource, sys

    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if "VmHWM" in line) << 10
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10

'''
"""Python that defines `peak_bytes`, to be put before such a program."""

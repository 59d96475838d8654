import sys
for line in sys.stdin:
    try:
        number = float(line.strip())
        if number < 10: number *= 100
        print(number)
    except ValueError:
        print("Invalid input:", line.strip(), file=sys.stderr)



shapes
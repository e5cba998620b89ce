"""`python -m mosso.train`. Worker processes import this module too: it costs them nothing."""

if __name__ == "__main__":
    from mosso.train.command import main

    main()

"""The feed as a child of the service tree."""

from ledger.pubsub.feed import Feed
from ledger.services.child import Child


class FeedService(Child):
    """Starts and stops the feed; the feed's place in the journal outlives a restart."""

    name = "feed"
    leans_on = ("database",)

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        feed.broken = self.fail

    async def start(self) -> None:
        """Return when the feed stands at the journal's head."""
        await self._feed.start()

    async def stop(self) -> None:
        """Publish nothing more."""
        await self._feed.stop()

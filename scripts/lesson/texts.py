"""Sixty sentences on six topics, ten each: the material of steps 1, 5 and 7."""

TOPICS = {
    "harbour": """
        The ferry to the island leaves at seven in the morning.
        When does the last boat go back to the mainland?
        The pilot brings the tanker past the sandbank at high tide.
        Two trawlers came home with empty nets.
        The lighthouse was automated forty years ago.
        Tie the dinghy to the second ring on the quay.
        Containers are unloaded by cranes that need no driver.
        A storm warning keeps the sailing school ashore.
        The captain slowed down because of the fog.
        Gulls follow the fishing boats into port.
    """,
    "kitchen": """
        Bake the bread until the crust sounds hollow.
        How long does a sourdough loaf stay in the oven?
        Fry the onions slowly, or they turn bitter.
        A pinch of salt makes the chocolate taste sweeter.
        The soup needs another hour on a low flame.
        Grease the tin before you pour in the batter.
        She sharpens her knives on a wet stone.
        Fold the egg whites in by hand, not with the mixer.
        Leftover rice makes the best fried rice.
        Which cheese melts well on a pizza?
    """,
    "sky": """
        Jupiter's four large moons can be seen with binoculars.
        The comet comes back every seventy-six years.
        Light from that galaxy has travelled for two million years.
        A telescope in orbit is not troubled by the air.
        The eclipse lasted a little over four minutes.
        How hot is the surface of Venus?
        Astronomers found a planet around a dim red star.
        Meteors burn up a hundred kilometres above the ground.
        The rover drilled into a rock on Mars.
        Without the Moon there would hardly be any tides.
    """,
    "garden": """
        Prune the roses in March, before the buds open.
        Tomatoes want sun, warmth and a stake to lean on.
        Slugs ate all the lettuce in one night.
        When should I plant garlic?
        The compost heap steams on cold mornings.
        Bees visit the lavender from dawn to dusk.
        Water the seedlings from below, so that they stay dry.
        The old apple tree still bears fruit.
        Ivy has pulled the gutter off the wall.
        Basil dies with the first frost.
    """,
    "music": """
        The violinist broke a string in the second movement.
        She tunes the piano twice a year.
        The choir rehearses every Thursday evening.
        A minor seventh wants to be resolved.
        The drummer lost the beat after the chorus.
        Which key is this song in?
        He wrote the whole opera on trains.
        The record was mixed in a kitchen with two microphones.
        An organ pipe sounds lower when it is longer.
        Nobody in the audience dared to cough.
    """,
    "court": """
        The judge adjourned the hearing until Monday.
        The witness could not remember the colour of the car.
        Her lawyer appealed against the sentence.
        A contract needs an offer and an acceptance.
        The jury was out for three days.
        Who bears the burden of proof?
        The landlord has to give three months' notice.
        The evidence was ruled inadmissible.
        He was fined for fishing without a licence.
        Parliament changed the law after the scandal.
    """,
}

TEXTS = [line.strip() for lines in TOPICS.values() for line in lines.strip().splitlines()]
TOPIC_OF_TEXT = [topic for topic in TOPICS for _ in range(10)]

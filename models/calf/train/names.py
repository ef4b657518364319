"""Names that tasks ask about. The held-out cities are never trained on."""

CITIES = """Vienna Oslo Paris London Berlin Madrid Rome Lisbon Dublin Athens Warsaw Prague Budapest Moscow Cairo Lagos Nairobi
Tokyo Kyoto Osaka Seoul Beijing Delhi Mumbai Lima Quito Bogota Havana Boston Chicago Denver Dallas Houston Seattle Toronto
Montreal Sydney Melbourne Perth Hamburg Munich Cologne Dresden Leipzig Zurich Geneva Basel Milan Turin Venice Naples
Florence Genoa Verona Lyon Nice Lille Nantes Bordeaux Marseille Toulouse Seville Valencia Granada Porto Antwerp Ghent
Bruges Rotterdam Utrecht Copenhagen Stockholm Gothenburg Bergen Helsinki Tampere Riga Tallinn Minsk Kiev Odessa Sofia
Belgrade Zagreb Sarajevo Tirana Istanbul Ankara Izmir Beirut Damascus Baghdad Tehran Kabul Karachi Lahore Dhaka Bangkok
Hanoi Manila Jakarta Singapore Tunis Algiers Casablanca Dakar Accra Kampala Lusaka Harare Durban Pretoria Caracas
Santiago Brasilia Salvador Recife Asuncion Montevideo Panama Managua Oxford Cambridge York Bath Bristol Leeds Glasgow
Edinburgh Cardiff Belfast Liverpool Manchester Plymouth Canterbury Winchester Detroit Atlanta Miami Memphis Phoenix
Portland Austin Omaha Tucson""".split()

HELD_OUT_CITIES = """Salzburg Amsterdam Brussels Krakow Bucharest Vilnius Reykjavik Malaga Palermo Trieste Strasbourg Hannover
Bremen Nuremberg Aarhus Uppsala Split Thessaloniki Tripoli Khartoum Kinshasa Luanda Philadelphia Vancouver Adelaide
Wellington Shanghai Nagoya Busan Calcutta""".split()

FIRST_NAMES = """Anna Thomas Maria Peter Helen Robert Clara Henry Emma Arthur Julia Edward Alice George Laura William Martha
Charles Rosa Frederick Nora Walter Ellen Hugo Sarah Oscar Grace Samuel Ruth Victor Jane Philip Lucy Daniel Agnes Simon Ida
Martin Eva Leo Edith Paul Rachel Felix Hannah Max Irene Oliver Judith Conrad""".split()

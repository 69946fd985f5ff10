use proptest::prelude::*;

use super::*;

fn window(days: &[Day], from: &str, to: &str, zone: &str) -> Window {
    let time = |text: &str| TimeOfDay::try_from(text.to_owned()).unwrap();
    Window {
        days: days.to_vec(),
        from: time(from),
        to: time(to),
        time_zone: Zone::try_from(zone.to_owned()).unwrap(),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn mins(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// From and to, in UTC.
fn told(windows: &[Window], now: &str) -> Vec<(String, String)> {
    let openings = openings(windows, at(now)).into_iter();
    openings.map(|opening| (opening.opens.to_string(), opening.closes.to_string())).take(2).collect()
}

#[test]
fn a_window_opens_on_its_days_in_its_zone_and_may_close_on_the_following_day() {
    let nights = [window(&[Day::Sat], "22:00", "04:00", "Europe/Berlin")];
    let expected = [
        ("2026-11-28T21:00:00Z".to_owned(), "2026-11-29T03:00:00Z".to_owned()),
        ("2026-12-05T21:00:00Z".to_owned(), "2026-12-06T03:00:00Z".to_owned()),
    ];
    for now in ["2026-11-25T12:00:00Z", "2026-11-28T21:00:00Z", "2026-11-29T02:59:59Z"] {
        assert_eq!(told(&nights, now), expected, "{now}");
    }
    assert_eq!(told(&nights, "2026-11-29T03:00:00Z")[0], expected[1], "the end is outside");
    let days = [window(&[Day::Sun], "00:00", "00:00", "Asia/Kolkata")];
    let expected = ("2026-11-28T18:30:00Z".to_owned(), "2026-11-29T18:30:00Z".to_owned());
    assert_eq!(told(&days, "2026-11-28T18:30:00Z")[0], expected, "the whole day");
}

#[test]
fn windows_that_touch_are_one() {
    let days = [
        window(&[Day::Sat, Day::Sun], "00:00", "00:00", "UTC"),
        window(&[Day::Mon], "00:00", "02:00", "UTC"),
        window(&[Day::Sat], "10:00", "11:00", "UTC"),
    ];
    let expected = ("2026-11-28T00:00:00Z".to_owned(), "2026-11-30T02:00:00Z".to_owned());
    assert_eq!(told(&days, "2026-11-27T00:00:00Z")[0], expected);
}

#[test]
fn nothing_is_begun_that_cannot_end_inside() {
    let nights = [window(&[Day::Sat], "22:00", "04:00", "Europe/Berlin")];
    let why = |now: &str, takes| shut(&nights, at(now), takes).map(|shut| shut.to_string());
    assert_eq!(why("2026-11-28T21:00:00Z", mins(360)), None, "it just fits");
    assert_eq!(why("2026-11-29T02:15:00Z", mins(45)), None);
    let said = why("2026-11-28T20:59:59Z", mins(45)).unwrap();
    assert_eq!(said, "waits for the window: opens Sat 2026-11-28 22:00 Europe/Berlin");
    let said = why("2026-11-29T02:15:01Z", mins(45)).unwrap();
    for part in ["expected to take 45 min", "closes Sun 2026-11-29 04:00", "opens Sat 2026-12-05 22:00"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = why("2026-11-28T21:00:00Z", mins(361)).unwrap();
    assert!(said.starts_with("no window is long enough") && said.contains("6 h 1 min"), "{said}");
    assert_eq!(shut(&[], at("2026-11-28T21:00:00Z"), mins(9999)), None, "where there is no window");
}

#[test]
fn where_a_clock_is_changed_the_shorter_reading_counts() {
    // Berlin's clocks skip 02:00–03:00 on 2026-03-29, and show it twice on 2026-10-25.
    let opens = |from: &str, to: &str, now: &str| {
        told(&[window(&[Day::Sun], from, to, "Europe/Berlin")], now).remove(0)
    };
    let utc = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let spring = "2026-03-28T00:00:00Z";
    assert_eq!(opens("02:30", "05:00", spring), utc("2026-03-29T01:30:00Z", "2026-03-29T03:00:00Z"));
    assert_eq!(opens("00:30", "02:30", spring), utc("2026-03-28T23:30:00Z", "2026-03-29T00:30:00Z"));
    assert_eq!(opens("01:00", "05:00", spring), utc("2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z"));
    let autumn = "2026-10-24T00:00:00Z";
    assert_eq!(opens("02:30", "05:00", autumn), utc("2026-10-25T01:30:00Z", "2026-10-25T04:00:00Z"));
    assert_eq!(opens("00:30", "02:30", autumn), utc("2026-10-24T22:30:00Z", "2026-10-25T00:30:00Z"));
    assert_eq!(opens("01:00", "05:00", autumn), utc("2026-10-24T23:00:00Z", "2026-10-25T04:00:00Z"));
    // Nothing is left of it on the day itself; a week later all of it is.
    assert_eq!(opens("02:15", "02:45", spring), utc("2026-04-05T00:15:00Z", "2026-04-05T00:45:00Z"));
}

#[test]
fn what_is_no_day_no_time_or_no_zone_is_refused_with_what_is_allowed() {
    for text in ["", "22", "24:00", "22:60", "9:00", "22:00:00", "-1:00", "+2:00", "aa:bb"] {
        let error = TimeOfDay::try_from(text.to_owned()).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{text}\"")) && error.contains("such as 22:00"), "{error}");
    }
    for text in ["", "Europe/Berln", "+02:00", "../../etc/passwd", "CET-1CEST"] {
        let error = Zone::try_from(text.to_owned()).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{text}\"")) && error.contains("Europe/Berlin"), "{error}");
    }
    assert_eq!(Zone::try_from("europe/berlin".to_owned()).unwrap().name(), "Europe/Berlin");
    assert_eq!(Zone::try_from("UTC".to_owned()).unwrap().name(), "UTC");
    assert!("sunday".parse::<Day>().unwrap_err().to_string().contains("sat, sun"));
    assert!(Day::ALL.iter().all(|day| day.name().parse() == Ok(*day)));
}

#[test]
fn a_length_is_told_in_hours_and_minutes() {
    let said = [1, 60, 61, 2700, 3600, 3900].map(|seconds| minutes(SignedDuration::from_secs(seconds)));
    assert_eq!(said, ["1 min", "1 min", "2 min", "45 min", "1 h", "1 h 5 min"]);
}

const SOME_ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    // Half an hour in summer; midnight is skipped or shown twice; a whole day was skipped.
    "Australia/Lord_Howe",
    "America/Santiago",
    "Pacific/Apia",
];

fn some_windows() -> impl Strategy<Value = Vec<Window>> {
    let time =
        || (0_i8..24, 0_i8..60).prop_map(|(hour, minute)| TimeOfDay(Time::new(hour, minute, 0, 0).unwrap()));
    let days = prop::sample::subsequence(Day::ALL.to_vec(), 1..=7);
    let zone = prop::sample::select(SOME_ZONES.to_vec());
    let window = (days, time(), time(), zone).prop_map(|(days, from, to, zone)| Window {
        days,
        from,
        to,
        time_zone: Zone::try_from(zone.to_owned()).unwrap(),
    });
    prop::collection::vec(window, 1..4)
}

/// Whether a wall clock beside somebody who holds the window's paper shows a time in it.
fn by_the_wall_clock(window: &Window, now: Timestamp) -> bool {
    let shown = now.to_zoned(window.time_zone.0.clone()).datetime();
    let on = |day: Option<DateTime>| day.is_some_and(|day| window.days.contains(&Day::of(day.weekday())));
    let (today, yesterday) = (Some(shown), shown.checked_sub(Span::new().days(1)).ok());
    let (from, to, time) = (window.from.0, window.to.0, shown.time());
    if to > from {
        on(today) && from <= time && time < to
    } else {
        (on(today) && from <= time) || (on(yesterday) && time < to)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_begun_is_inside_by_every_wall_clock_from_its_beginning_to_its_end(
        windows in some_windows(),
        now in 1_267_000_000_i64..1_900_000_000,
        takes in 1_i64..600,
    ) {
        let (now, takes) = (Timestamp::from_second(now).unwrap(), mins(takes));
        if let Ok((begins, _)) = next_begin(&windows, now, takes) {
            prop_assert!(begins >= now);
            prop_assert_eq!(shut(&windows, begins, takes), None);
            let mut moment = begins;
            while moment < begins + takes {
                let inside = windows.iter().any(|window| by_the_wall_clock(window, moment));
                prop_assert!(inside, "{} is outside of {:?}", moment, windows);
                moment += mins(7);
            }
        }
    }

    #[test]
    fn what_waits_is_told_the_moment_at_which_it_may_begin_and_not_before(
        windows in some_windows(),
        now in 1_267_000_000_i64..1_900_000_000,
        takes in 1_i64..600,
    ) {
        let (now, takes) = (Timestamp::from_second(now).unwrap(), mins(takes));
        if let Some(Shut { next: Some(next), .. }) = shut(&windows, now, takes) {
            prop_assert!(next.opens > now);
            prop_assert_eq!(shut(&windows, next.opens, takes), None);
            let before = next.opens - SignedDuration::from_secs(1);
            prop_assert!(before < now || shut(&windows, before, takes).is_some());
        }
    }
}

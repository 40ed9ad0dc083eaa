//! A rule over two things at once: a course has so many seats, a student may take so many courses. Neither is an
//! aggregate of its own; the append condition guards exactly what the decision was made from.
//!
//! `cargo run -p annals --example course_subscriptions`

use annals::{Batch, Error, Expect, NewEvent, Position, Query, QueryItem, Seek, Store};

const SEATS: usize = 3;
const COURSES_PER_STUDENT: usize = 2;

#[derive(Debug, PartialEq)]
enum Answer {
    Subscribed,
    AlreadySubscribed,
    CourseFull,
    StudentHasEnough,
}

/// Everything the decision rests on: who is in the course, and where the student is.
fn relevant(course: &str, student: &str) -> Query {
    let subscribed = || QueryItem::new().types(["StudentSubscribed"]);
    Query::item(subscribed().tags_all([course])).or(subscribed().tags_all([student]))
}

fn subscribe(store: &Store, course: &str, student: &str) -> annals::Result<Answer> {
    loop {
        let query = relevant(course, student);
        let read = store.read_all(&query, Seek::Beginning)?;
        // What this read can see ends here, so the condition looks from here on.
        let head = Position::new(read.head());
        let (mut in_course, mut of_student) = (0, 0);
        let mut is_subscribed = false;
        for event in read {
            let event = event?;
            let has = |wanted: &str| event.tags().any(|tag| tag == wanted);
            in_course += usize::from(has(course));
            of_student += usize::from(has(student));
            is_subscribed |= has(course) && has(student);
        }
        if is_subscribed {
            return Ok(Answer::AlreadySubscribed);
        }
        if in_course >= SEATS {
            return Ok(Answer::CourseFull);
        }
        if of_student >= COURSES_PER_STUDENT {
            return Ok(Answer::StudentHasEnough);
        }
        let tags = [course, student];
        let batch =
            Batch::new().condition(query, head).event(course, NewEvent::new("StudentSubscribed", b"").tags(&tags));
        match store.commit(&batch) {
            Ok(_) => return Ok(Answer::Subscribed),
            // Somebody took a seat since; decide again.
            Err(Error::Conflict(_)) => continue,
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn run() -> annals::Result<()> {
    let store = Store::in_memory()?;
    for course in ["course:algebra", "course:botany", "course:chess"] {
        store.append(course, Expect::NoStream, &[NewEvent::new("CourseDefined", b"").tags(&[course])])?;
    }
    // Five students want the same three seats at the same time.
    let answers = std::thread::scope(|scope| {
        let store = &store;
        let students: Vec<_> =
            (1..=5).map(|n| scope.spawn(move || subscribe(store, "course:algebra", &format!("student:{n}")))).collect();
        students.into_iter().map(|student| student.join().expect("no student panics")).collect::<Vec<_>>()
    });
    let answers = answers.into_iter().collect::<annals::Result<Vec<_>>>()?;
    println!("algebra: {answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Subscribed).count(), SEATS);
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::CourseFull).count(), 2);

    assert_eq!(subscribe(&store, "course:botany", "student:9")?, Answer::Subscribed);
    assert_eq!(subscribe(&store, "course:botany", "student:9")?, Answer::AlreadySubscribed);
    assert_eq!(subscribe(&store, "course:chess", "student:9")?, Answer::Subscribed);
    assert_eq!(subscribe(&store, "course:algebra", "student:9")?, Answer::CourseFull);
    let list = store.count(&Query::tag("student:9"))?;
    println!("student 9 takes {list} courses");
    assert_eq!(list, COURSES_PER_STUDENT as u64);
    Ok(())
}

fn main() -> annals::Result<()> {
    run()
}

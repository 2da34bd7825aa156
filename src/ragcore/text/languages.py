"""Words of several languages that carry no meaning of their own in a question: articles, pronouns, question words, auxiliaries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ragcore.text.words import STOP_WORDS

__all__ = ["ENGLISH", "LANGUAGES", "Language", "language_of"]


@dataclass(frozen=True, slots=True)
class Language:
    """The words of a language that have a special meaning when `matching` compares words.

    Attributes:
        function_words: words that carry no meaning of their own, in lower case and without accents.
        asks: words that name the kind of answer, such as "name" in "What is the name of …?". The answer rarely repeats them.
        alternative: the word between two alternatives, "or".
        percent: the word for "%".
    """

    function_words: frozenset[str]
    asks: frozenset[str]
    alternative: str
    percent: str


def _language(function_words: str, *, asks: str, alternative: str, percent: str) -> Language:
    return Language(frozenset(function_words.split()), frozenset(asks.split()), alternative, percent)


ENGLISH: Final = Language(
    STOP_WORDS,
    frozenset(
        """call called describe example examples explain happen happened kind kinds known list mean means mention mentioned name named names
        sort term type types word words""".split()
    ),
    "or",
    "percent",
)
GERMAN: Final = _language(
    """ab aber alle allem allen aller alles als also am an andere anderen auch auf aus bei beim bin bis bist da dabei damit dann das dass dazu dein
    deine dem den denn der deren des dessen die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem einen einer eines er es etwas
    euch euer fur gab geben gegen gibt habe haben hat hatte hatten hier ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in ins ist ja jede jedem jeden
    jeder jedes kann kannst kein keine keinem keinen keiner konnen konnte machen man mehr mein meine meinem meinen meiner mich mir mit muss mussen nach
    nicht noch nun nur ob oder ohne sehr sein seine seinem seinen seiner sich sie sind so soll sollte sollen sowie uber um und uns unser unsere unter vom
    von vor wann war waren warum was welche welchem welchen welcher welches wem wen wenn wer werde werden wessen wie wieso wieviel wird wo wofur woher
    wohin womit worden wurde wurden zu zum zur zwischen hoch lange oft viel viele weit""",
    asks="art arten begriff bedeutet beispiel bezeichnet erklare genannt heisst heissen name namen nennen nenne wort",
    alternative="oder",
    percent="prozent",
)
FRENCH: Final = _language(
    """ai ait as au aucun aucune aussi autre autres aux avec avez avoir avons c ce cela ces cet cette ceux chaque ci comme comment contre d dans de
    depuis des dois doit doivent donc dont du elle elles en encore entre es est et etaient etait ete etes etre eu fait faut il ils j je jusqu l la
    laquelle le lequel les lesquels leur leurs lors lui m ma mais me meme mes mon n ne ni nos notre nous on ont ou par pas pendant peut peuvent peux plus
    pour pourquoi puis qu quand que quel quelle quelles quels qui quoi s sa sans se sera ses si son sont sous sur t ta te tes toi ton tous tout toute
    toutes tres tu un une va vers vos votre vous y combien temps""",
    asks="appelle appellent exemple expliquez genre mot nom noms nomme nommez signifie sorte terme type",
    alternative="ou",
    percent="pourcent",
)
SPANISH: Final = _language(
    """a al algo ante antes aquel aquella asi aun aunque cada como con contra cual cuales cuando cuanta cuantas cuanto cuantos cuya cuyo de debe deben debo
    del desde donde dos durante e el ella ellas ellos en entre era eran eres es esa esas ese eso esos esta estaba estan estas este esto estos fue fueron ha
    haber habia han hasta hay he la las le les lo los mas me mi mis mucho muy nada ni no nos nosotros o otra otro otros para pero poco por porque puede
    pueden puedo que quien quienes se sea segun ser si sido sin sobre son soy su sus tambien tan tanto te tengo tiene tienen todo todos tu tus u un una
    unas uno unos y ya yo tiempo""",
    asks="ejemplo explique llama llaman llamado nombre nombres palabra significa tipo tipos termino",
    alternative="o",
    percent="porciento",
)
ITALIAN: Final = _language(
    """a ad agli ai al alla alle allo anche avere aveva c che chi ci come con contro cosa cui d da dagli dai dal dalla dalle dallo degli dei del
    dell della delle dello deve devo devono di dove due e ed era erano essere fa fino fra gli ha hai hanno ho i il in io l la le lei lo loro lui ma me
    mentre mi mia mie miei mio molto ne negli nei nel nell nella nelle nello no noi non nostra nostro o ogni per perche piu po posso puo possono qual
    quale quali quando quanta quante quanti quanto quei quella quelle quello questa queste questi questo se sei senza si sia sono sta stato su sua sue
    sugli sui sul sulla sulle sullo suo suoi ti tra tu tua tuo tutti tutto un una uno vi voi volta tempo""",
    asks="chiama chiamano chiamato esempio nome nomi parola significa spiega termine tipo tipi",
    alternative="o",
    percent="percento",
)
DUTCH: Final = _language(
    """aan al alle als ben bij daar dan dat de der des deze die dit doen door dus een en er geen had hadden heb hebben heeft hem het hier hij hoe hoeveel
    hun ik in is ja je jij jou jouw jullie kan kunnen maar me meer men met mij mijn moet moeten na naar niet nog nu of om omdat ons onze ook op over te
    tegen toch toen tot u uit uw van veel voor waar waarom wanneer waren was wat we wel welk welke werd werden wie wij wil worden wordt zal ze zich zij
    zijn zo zonder zou lang vaak""",
    asks="betekent genoemd heet heten naam namen noem soort soorten voorbeeld woord",
    alternative="of",
    percent="procent",
)
PORTUGUESE: Final = _language(
    """a ao aos as ate cada com como da das de dela dele deles depois deve devo devem do dos e ela elas ele eles em entre era essa esse esta estao este eu
    foi foram ha isso isto ja lhe mais mas me mesmo meu meus minha minhas muito na nao nas nem no nos nossa nosso o onde os ou para pela pelas pelo pelos
    pode podem por porque posso qual quais quando quanta quantas quanto quantos que quem se sem ser seu seus sido so sobre sua suas tambem te tem tenho
    ter teu tua um uma umas uns voce voces tempo""",
    asks="chama chamado exemplo explique nome nomes palavra significa termo tipo tipos",
    alternative="ou",
    percent="porcento",
)
POLISH: Final = _language(
    """a aby ale albo bardzo bez bo byc byl byla bylo byly co czego czy czym dla do gdy gdzie go i ich ile im ja jak jaka jaki jakie jako jego jej jest jestem
    jesli kiedy kto ktora ktore ktory lub ma mam mi mnie moga moge moj moja moje moze musi musze na nad nie niz o od on ona one oni oraz po pod poniewaz
    przed przez przy sa sie skad swoj ta tak tam te tego tej ten to trzeba tu ty tych tylko tym w we wiec wszystko z za ze""",
    asks="imie nazwa nazwe nazywa oznacza przyklad rodzaj rodzaje slowo termin typ typy",
    alternative="lub",
    percent="procent",
)
RUSSIAN: Final = _language(
    """а без бы был была были было быть в вам вас ваш ваша ваше ваши во вот все всех вы где да для до его ее если есть еще же за зачем и из или им их к
    как какая какие каким каких какого какои какую когда кого кому кто куда ли меня мне могу может можно мои мою моя мы на нам нас наш не него нее нет
    ни но ну о об он она они оно от откуда по под почему при про с сам свои свою сколько со та так такои там те тем то того тоже тои только том ты у
    уже чего чем через что чтобы эта эти это этого этои этот я""",
    asks="называется назовите имя вид виды значит название пример слово термин тип типы",
    alternative="или",
    percent="процентов",
)
LANGUAGES: Final = (ENGLISH, GERMAN, FRENCH, SPANISH, ITALIAN, DUTCH, PORTUGUESE, POLISH, RUSSIAN)


def language_of(words: Iterable[str], /) -> Language:
    """Return the language whose function words are the most frequent among `words`. Without any function word, the language is English.

    Args:
        words: words in lower case and without accents.

    Examples:
        >>> language_of("was kostet die reparatur".split()) is GERMAN
        True
    """
    found = list(words)
    return max(LANGUAGES, key=lambda language: sum(word in language.function_words for word in found))
